"""Small Llamas whose attention, or whose first token, is built another way (`configuration`)."""
