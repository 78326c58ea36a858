"""Measuring: the methods compared, the comparison itself, where a pass spends its time, what training costs."""
