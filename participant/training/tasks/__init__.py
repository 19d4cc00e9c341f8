"""The kinds of tasks: each turns rows into inputs, answers into losses, and answers into metrics."""
