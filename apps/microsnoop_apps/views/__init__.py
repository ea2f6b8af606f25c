"""Pictures of rows where they come from: a contact sheet of cells, and clusters drawn over their field."""
