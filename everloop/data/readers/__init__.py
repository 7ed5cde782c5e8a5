"""From files to records: one file a format. A reader knows no dataset."""
