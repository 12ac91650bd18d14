"""Services, appointments and trainings: what customers book, and what a payment may be for."""
