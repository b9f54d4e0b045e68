"""What a run is: its configuration, and how rules, formats, schedules and seeds are written in it."""
