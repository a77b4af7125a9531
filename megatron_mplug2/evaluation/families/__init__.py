"""The evaluation of downstream families: each does its own work on a split, judged by its own measures."""
