"""Answers as documents: what was asked, the answer, plots and tables, and the source of every figure.

`document` is what a report is made of, and knows no format; a file of `kinds` fills one for each command; a file of
`writers` turns any of them into a file. New kinds and formats are found by their registries.
"""
