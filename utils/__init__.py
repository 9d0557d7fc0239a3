"""The loop, buffer, metrics, checkpoints and arguments. Importing the package itself loads nothing heavy."""
