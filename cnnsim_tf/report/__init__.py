"""The report: numbers as text, the HTML page, links into the UI, the published figures."""
