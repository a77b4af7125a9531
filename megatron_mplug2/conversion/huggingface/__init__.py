"""What an exported folder is made of: modelling files for transformers, which import nothing of this project, and what writes and reads it.

The files named `*_mplug2.py` are copied into the folder as they are, so they import one another relatively. Parameters have this project's
canonical names and layouts: an export renames and rearranges nothing.
"""
