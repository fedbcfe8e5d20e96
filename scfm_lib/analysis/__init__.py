"""Questions to a trained model: what it looks at, cell types from few labels, why its training was slow."""
