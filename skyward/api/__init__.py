"""What users call. Importing any module here needs the standard library alone, because tasks import them too."""
