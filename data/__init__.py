"""What a trade, a feature, a target and a served model are.

All other folders import this one, and it imports none of them.
"""
