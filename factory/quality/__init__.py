"""Pure judgement: measurements and rules to a verdict; data gates and model gates."""
