"""Figures: functions from results to Plotly figures. Nothing is shown or written here."""
