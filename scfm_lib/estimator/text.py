"""What `scfm check` and `scfm estimate` print for people: the same figures as their JSON."""

from typing import Any

from ..units import duration, gb


def aligned(rows: list[tuple[str, ...]], indent: str = "  ") -> str:
    """Rows with their columns aligned; the last column is not padded."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]) - 1)]
    return "\n".join(
        indent + "  ".join([cell.ljust(w) for cell, w in zip(row, widths, strict=False)] + [row[-1]]) for row in rows
    )


def check_text(found: dict[str, Any]) -> str:
    """The hardware check as a table."""
    cpu, ram, torch = found["cpu"], found["memory_bytes"], found["platform"]["torch"]
    where = ", ".join(found["platform"]["places"])
    limit = f", limited to {cpu['limit']:g} by the container" if cpu["limit"] else ""
    flops = f", {cpu['fp32_flops'] / 1e9:.0f} GFLOP/s measured" if cpu["fp32_flops"] else ""
    build = f"CUDA {torch['cuda']}" if torch["cuda"] else f"ROCm {torch['hip']}" if torch["hip"] else "CPU only"
    rows = [
        ("system", f"{found['platform']['system']} {found['platform']['release']}" + (f" ({where})" if where else "")),
        ("torch", f"{torch['version'] or 'not known'}, built for {build}, Python {found['platform']['python']}"),
        ("CPU", f"{cpu['model'] or 'not known'}"),
        (
            "cores",
            f"{cpu['physical_cores'] or 'not known'} physical, {cpu['logical_cores']} logical, "
            f"{cpu['usable_cores']} usable{limit}{flops}",
        ),
        ("memory", f"{gb(ram['total'])}, {gb(ram['available'])} available" + (" (limit)" if ram["limit"] else "")),
        ("disk", f"{gb(found['disk_bytes']['free'])} free at {found['disk_bytes']['path']}"),
    ]
    for gpu in found["gpus"]:
        state = "works" if gpu["works"] else f"DOES NOT WORK: {gpu['problem']}"
        held = ", ".join(f"{h['name'] or h['pid']} holds {gb(h['bytes'])}" for h in gpu["held_by"])
        parts = [
            f"{gpu['name'] or 'not known'}{' (laptop)' if gpu['laptop'] else ''}",
            f"{gb(gpu['memory_total'])}, {gb(gpu['memory_free'])} free",
            f"compute capability {gpu['compute_capability']}" if gpu["compute_capability"] else "",
            f"bf16 {gpu['bf16']}" if gpu["bf16"] else "",
            "this torch has no code for it" if gpu["code"] is False else "",
            held,
            state,
        ]
        rows.append(("GPU", "; ".join(part for part in parts if part)))
        rows += [("", note) for note in gpu["notes"]]
    if not found["gpus"]:
        rows.append(("GPU", "none found"))
    rows += [("note", note) for note in found["notes"]]
    verdicts = []
    for name, row in found["presets"].items():
        verdicts.append((name.upper(), row["verdict"] or "not known", row["reason"]))
        if row["change"]:
            verdicts.append(("", "", row["change"]))
    threads = found["threads"]
    now = f" (now {threads['set_now']})" if threads["set_now"] else ""
    return "\n".join(
        [
            aligned(rows, ""),
            f"\nTraining on: {found['target']['name']} ({found['target']['why']})",
            aligned(verdicts),
            f"\nThreads: {threads['threads']}{now}; before torch is imported: {threads['shell']}",
            "Hours are estimated, for cells like those of PBMC3k and the jobs of the hardware guide, of many epochs.",
            "`scfm estimate --preset NAME` measures real steps, with the epochs that `scfm train` would take.",
        ]
    )


def estimate_text(found: dict[str, Any]) -> str:
    """The estimate as tables."""
    genes, seconds, memory = found["genes"], found["seconds"], found["memory_bytes"]
    fits = {True: "fits", False: "DOES NOT FIT", None: ""}[found["fits"]]
    lines = [
        f"On {found['target']}, {found['precision']}; {found['cells']:,} cells, "
        f"{found['config']['training']['num_epochs']} epochs, batches of {found['config']['training']['batch_size']}.",
        f"Genes: {genes['mean_per_cell']:g} of {genes['all']:,} expressed per cell on average ({genes['source']}), "
        f"{genes['mean_per_half']:g} per half.",
        f"Tokens: {genes['tokens_per_half']:g} of these per half, {genes['tokens_in_longest_half']} in the longest.",
        f"\nParameters  {found['parameters']:,} (at {genes['all']:,} genes)",
        aligned([(name, f"{count:>12,}") for name, count in found["parameters_by_component"].items()]),
        f"\nMemory at the longest batch  {gb(memory['total'])} of {gb(found['memory_available'])} {fits}".rstrip(),
        aligned([(name, f"{gb(size):>9}") for name, size in memory.items() if name != "total"]),
        f"  largest batch that fits: {found['max_batch_size'] if found['max_batch_size'] is not None else 'not known'}",
        f"RAM  {gb(found['ram_bytes']['total'])}, later {gb(found['embed_bytes'])} for embed and "
        f"{gb(found['evaluate_bytes'])} for evaluate    disk  {gb(found['disk_bytes']['total'])}",
        f"\nTime  {duration(seconds['typical'])}  ({duration(seconds['low'])} to {duration(seconds['high'])}), "
        f"{duration(found['seconds_per_epoch'])} an epoch",
        *(f"  {note}" for note in found["notes"]),
    ]
    if found["rented"]:
        lines.append("Cost")
        lines.append(
            aligned(
                [
                    (
                        row["machine"],
                        dollars(*row["usd"]),
                        "longer than a session" if row["fits_one_session"] is False else f"prices of {row['priced']}",
                    )
                    for row in found["rented"]
                ]
            )
        )
    for what, key in (("memory", "saves_bytes"), ("time", "saves_seconds")):
        rows = [(f"What would save {what}", "memory", "time", "")]
        for lever in sorted(found["levers"], key=lambda lever: -lever[key]):
            if lever[key] > 0:
                note = f"--set {' --set '.join(lever['set'])}  ({lever['note']})"
                saved = gb(lever["saves_bytes"]), duration_saved(lever["saves_seconds"])
                rows.append((f"  {lever['lever']}", *saved, note))
        lines += ["", aligned(rows, "")]
    return "\n".join(lines)


def dollars(low: float, high: float) -> str:
    """A range of US dollars."""
    if high == 0:
        return "free"
    return "under $0.01" if high < 0.01 else f"${low:.2f} to ${high:.2f}"


def duration_saved(seconds: float) -> str:
    """A saving, or what it costs."""
    return duration(seconds) if seconds >= 0 else f"costs {duration(-seconds)}"


def fit_text(found: dict[str, Any]) -> str:
    """The best fit in three lines."""
    seconds = found["seconds"]
    return (
        f"Best fit on {found['target']}: {found['preset'].upper()}, {found['cells']:,} cells, "
        f"{gb(found['memory_bytes']['total'])}, {duration(seconds['typical'])} "
        f"({duration(seconds['low'])} to {duration(seconds['high'])})\n{found['command']} --data_path DATA.h5ad"
    )
