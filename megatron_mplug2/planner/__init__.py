"""What a run would cost on hardware that is not here: step time by layout, the schedule's timeline, failures."""
