"""Published LoRAs as methods: by card, or by name as ``lora:WEIGHTS@SCHEDULER(settings)``."""
