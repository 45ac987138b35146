"""The methods: one file each, registered by name; tuned settings in presets/."""
