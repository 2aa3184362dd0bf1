"""One file a format, found by the ending of the file or folder that it writes."""
