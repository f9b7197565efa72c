"""Weights on disk: portable folders, official and HuggingFace files, conversion, resume files."""
