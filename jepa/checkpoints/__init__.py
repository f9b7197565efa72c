"""Weights on disk: portable folders (safetensors) and resume files."""
