"""From files to a checked store: reading counts, gene names, where data sets come from, the store on disk."""
