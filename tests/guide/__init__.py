"""The mistakes that the patterns of a well-known guide make, each with the input that shows it, against paintkit.

A docstring that begins with "Row N:" names the mistake by its number in the list that these tests answer.
"""
