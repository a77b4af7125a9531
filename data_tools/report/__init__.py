"""`mplug2 data report`: one page that shows what is in a corpus."""
