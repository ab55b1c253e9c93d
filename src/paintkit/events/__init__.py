"""Events: what happened in one part of a program, told to those who want to know."""
