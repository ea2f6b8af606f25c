"""What every layer shares: errors, row schemas, configuration. Imports no torch, no ray."""
