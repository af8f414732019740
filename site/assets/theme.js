// Before anything is drawn: the theme that was chosen here the last time.
try {
  const chosen = localStorage.getItem("theme");
  if (chosen === "dark" || chosen === "light") document.documentElement.dataset.theme = chosen;
} catch {} // a browser that keeps nothing
