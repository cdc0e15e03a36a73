"""Component of stage `report`."""
