"""Coverage-guided fuzzing of every parser of bytes that strangers write (`make fuzz`, atheris).

`targets` says what each parser may raise and what must hold; `test_fuzz.py` runs their seeds, and mutations of them.
"""
