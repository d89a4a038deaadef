"""Fitting of models.

In: samples of feature rows with targets. Out: ONNX files with columns, spec and training time in the metadata.
"""
