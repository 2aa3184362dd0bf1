"""Reports on paper: text, tables and plots laid out over pages by matplotlib, for PDF and PNG alike."""
