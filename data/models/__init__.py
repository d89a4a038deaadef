"""A registered model, ready to serve.

In: the bytes of an ONNX file, from the MLflow registry or from disk. Out: scores and intervals of feature rows. The
registry names a `Version`; its file is a `ModelFile`; the loaded file is a `ServedModel`.
"""
