"""What users give: names, numbers, options written as text, and what their values may be."""
