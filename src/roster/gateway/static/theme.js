// Sets the theme that was chosen before anything is drawn, so that a dark page does not flash white.
try {
  const chosen = localStorage.getItem("roster-theme");
  if (chosen === "light" || chosen === "dark") document.documentElement.dataset.theme = chosen;
} catch {
  // Storage may be switched off: then the system's theme it is.
}
