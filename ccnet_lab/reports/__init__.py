"""Reports: runs and publications in, tables and Markdown out; draw/ draws them, app/ shows them."""
