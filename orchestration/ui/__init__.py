"""What stands around Dagster's UI: the door in front, and the pictures of product-days beside.

In: requests, and the lake. Out: admitted requests, and pictures.
"""
