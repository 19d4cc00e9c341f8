"""Rows of datasets: formats, cells and pictures."""
