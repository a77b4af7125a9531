"""`mplug2 report`: one page that tells of a run, from what lies in its folder."""
