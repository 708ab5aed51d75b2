"""Coverage-guided fuzzing of every parser of untrusted bytes (`make fuzz`, atheris).

`targets` says what each parser may raise and what must hold; `test_fuzz.py` runs the seeds and mutations of them.
"""
