"""Tables of rows: checks that rows can share a table, cells, notes, protocol, summary, and output as Markdown, LaTeX or text."""
