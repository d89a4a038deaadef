"""How models are fitted.

In: samples of feature rows with targets. Out: ONNX files that name their columns, spec and training time.
"""
