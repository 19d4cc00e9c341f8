"""Types of adapters that PEFT does not bring; importing one lets PEFT read and write it."""
