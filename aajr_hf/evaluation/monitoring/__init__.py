"""What an agent was asked and answered in production: does it still do what it did when it was measured?"""
