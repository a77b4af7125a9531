"""What the project's HTML pages share: a shell that needs no other file, markup from texts of strangers, pictures inside a page."""
