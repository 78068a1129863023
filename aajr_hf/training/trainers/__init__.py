"""The trainers: TRL's, with the adversary inside."""
