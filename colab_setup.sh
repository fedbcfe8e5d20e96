#!/usr/bin/env bash
# Sets the workbook up on Colab or Kaggle: installs only what is missing and changes nothing that is there.
#
#   bash colab_setup.sh             from a clone
#   curl -fsSL ADDRESS | bash       from anywhere: clones the project first
#   bash colab_setup.sh --dry-run   says what it would do
#
# Every package that is there already is a constraint for pip: torch, numpy, pandas and the rest keep their versions,
# since other cells of a notebook may have imported them. Running it again does nothing.
set -euo pipefail

REPOSITORY=https://example.org/PLACEHOLDER/scfm-workbook # PLACEHOLDER: [project.urls] Repository of pyproject.toml
DRY_RUN=
[ "${1:-}" = --dry-run ] && DRY_RUN=yes
PYTHON=$(command -v python3 || command -v python)

fail() {
    printf '\nSET-UP FAILED: %s\nCopy this line into a cell to see why:\n  %s\n' "$1" "$2" >&2
    exit 2
}

if [ -n "${COLAB_RELEASE_TAG:-}" ]; then
    PLATFORM=Colab
elif [ -n "${KAGGLE_KERNEL_RUN_TYPE:-}" ]; then
    PLATFORM=Kaggle
else
    fail "this is neither Colab nor Kaggle (COLAB_RELEASE_TAG and KAGGLE_KERNEL_RUN_TYPE are unset)" \
        "make lab    # on your own computer, or: pip install -c constraints.txt -e '.[lab]'"
fi

# 1. The project: this clone, or a new one.
HERE=$(cd "$(dirname "${BASH_SOURCE[0]:-.}")" && pwd)
[ -f "$HERE/pyproject.toml" ] || HERE=$PWD/$(basename "$REPOSITORY")
if [ ! -f "$HERE/pyproject.toml" ]; then
    if [ -n "$DRY_RUN" ]; then
        echo "would clone $REPOSITORY to $HERE, then install what is missing"
        exit 0
    fi
    git clone --quiet --depth 1 "$REPOSITORY" "$HERE" || fail "the project could not be fetched (is the internet switched on?)" "!git clone --depth 1 $REPOSITORY"
fi

# 2. What is missing: one requirement a line.
MISSING=$("$PYTHON" - "$HERE/pyproject.toml" <<'PY'
import sys, tomllib
from importlib import metadata
from packaging.requirements import Requirement

for line in tomllib.load(open(sys.argv[1], "rb"))["project"]["dependencies"]:
    need = Requirement(line)
    try:
        if not need.specifier.contains(metadata.version(need.name), prereleases=True):
            print(line)
    except metadata.PackageNotFoundError:
        print(line)
PY
) || fail "Python could not read $HERE/pyproject.toml" "!$PYTHON --version; cat $HERE/pyproject.toml"
INSTALLED=$("$PYTHON" -c 'import importlib.metadata as m; d = m.distribution("scfm-workbook"); print(d.read_text("direct_url.json") or "")' 2>/dev/null || true)
NEEDED=$(printf '%s' "$MISSING" | grep -c . || true)

# 3. Where runs will go.
if [ "$PLATFORM" = Kaggle ]; then
    RUNS=/kaggle/working/runs
elif [ -d /content/drive/MyDrive ]; then
    RUNS=/content/drive/MyDrive/scfm-runs
else
    RUNS="$HERE/runs (lost with this session; to keep them: from google.colab import drive; drive.mount('/content/drive'))"
fi

# 4. The accelerator that was chosen.
if command -v nvidia-smi >/dev/null && CARDS=$(nvidia-smi --query-gpu=name --format=csv,noheader 2>/dev/null | sort | uniq -c | sed 's/^ *//' | paste -sd ';') && [ -n "$CARDS" ]; then
    case $CARDS in *P100*) CARDS="$CARDS: recent torch has no code for it; choose GPU T4 x2 in the settings" ;; esac
elif [ -n "${TPU_WORKER_ID:-}${TPU_NAME:-}${COLAB_TPU_ADDR:-}" ] || ls /dev/accel* >/dev/null 2>&1; then
    CARDS="a TPU, which this project cannot use: choose a T4 GPU in the settings, else training runs on the CPU"
else
    CARDS="none: training runs on the CPU; a T4 GPU can be chosen in the settings"
fi

echo "platform   $PLATFORM, Python $("$PYTHON" -c 'import platform; print(platform.python_version())')"
echo "project    $HERE"
echo "missing    ${NEEDED} of the project's packages"
echo "runs       $RUNS"
echo "GPU        $CARDS"

if [ -n "$DRY_RUN" ]; then
    printf '%s\n' "$MISSING" | sed '/^$/d; s/^/would install  /'
    case $INSTALLED in *"$HERE"*) ;; *) echo "would install  scfm-workbook from $HERE" ;; esac
    exit 0
fi
case $INSTALLED in
*"$HERE"*) [ "$NEEDED" = 0 ] && echo "installed  all there already, nothing changed" && exit 0 ;;
esac

CONSTRAINTS=$(mktemp)
LOG=$(mktemp)
trap 'rm -f "$CONSTRAINTS" "$LOG"' EXIT
"$PYTHON" -m pip list --format=freeze --disable-pip-version-check 2>/dev/null | grep -v -i '^scfm[-_]workbook==' >"$CONSTRAINTS"
set +e
"$PYTHON" -m pip install --progress-bar off --disable-pip-version-check --root-user-action ignore --constraint "$CONSTRAINTS" --editable "$HERE" >"$LOG" 2>&1
STATUS=$?
set -e
if [ $STATUS -ne 0 ]; then
    tail -n 15 "$LOG" >&2
    fail "pip found no way to add what is missing without changing what is there" "!pip install -e $HERE"
fi
MEGABYTES=$(sed -n 's/.*Downloading .*(\([0-9.]*\) \([kM]*\)B).*/\1 \2/p' "$LOG" | awk '{ sum += $2 == "M" ? $1 : $2 == "k" ? $1 / 1e3 : $1 / 1e6 } END { printf "%.1f", sum }')
ADDED=$(sed -n 's/^Successfully installed //p' "$LOG" | wc -w)
CHANGED=$("$PYTHON" -m pip list --format=freeze --disable-pip-version-check 2>/dev/null | LC_ALL=C sort | LC_ALL=C comm -13 - <(LC_ALL=C sort "$CONSTRAINTS") | wc -l)
[ "$CHANGED" = 0 ] || fail "$CHANGED of the packages that were here have changed" "!pip list"
echo "installed  $ADDED packages, $MEGABYTES MB downloaded"
echo "unchanged  all $(wc -l <"$CONSTRAINTS") packages that were here"
echo "next       go on with the next cell"
