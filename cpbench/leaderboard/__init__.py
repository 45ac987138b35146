"""The leaderboard: finished runs in tables of comparable rows."""
