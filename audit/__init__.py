"""The reader: files and rendering of reports, and their verification offline."""
