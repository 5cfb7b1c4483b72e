"""After the search: final fine-tuning, export, checks and measurements on a device."""
