"""The demo corpus: real JPEG, H.264 and text files of coloured shapes that move, small enough to learn from on a CPU."""
