// What makes a page alive; every page works without it. Local times with their zone, countdowns, filters.
"use strict";
(() => {
  const language = document.documentElement.lang;
  const parts = { month: "short", day: "numeric", hour: "2-digit", minute: "2-digit" };
  const whole = new Intl.DateTimeFormat(language, { ...parts, year: "numeric", timeZoneName: "short" });
  const thisYear = new Intl.DateTimeFormat(language, { ...parts, timeZoneName: "short" });
  const relative = new Intl.RelativeTimeFormat(language, { numeric: "auto" });
  const ago = (seconds) => {
    const [size, unit] = [[86400, "day"], [3600, "hour"], [60, "minute"]].find(([size]) => seconds >= size) ?? [60, "minute"];
    return relative.format(-Math.round(seconds / size), unit);
  };
  for (const one of document.querySelectorAll("time[datetime]")) {
    const at = new Date(one.dateTime), seconds = (Date.now() - at) / 1000;
    if (Number.isNaN(seconds) || one.hasAttribute("data-ends")) continue;
    one.title = whole.format(at);
    const isThisYear = at.getFullYear() === new Date().getFullYear();
    if (one.hasAttribute("data-ago") && seconds > -60 && seconds < 7 * 86400) one.textContent = ago(Math.max(0, seconds));
    else one.textContent = (isThisYear ? thisYear : whole).format(at);
  }

  const waiting = [...document.querySelectorAll("time[data-ends]")];
  const count = () => {
    for (const one of waiting) {
      const left = Math.max(0, Math.round((new Date(one.dateTime) - Date.now()) / 1000));
      one.textContent = `${Math.floor(left / 60)}:${String(left % 60).padStart(2, "0")}`;
    }
  };
  if (waiting.length) {
    count();
    setInterval(count, 1000);
  }

  for (const field of document.querySelectorAll("input[data-filter]")) {
    const items = [...document.getElementById(field.dataset.filter).children];
    field.closest("[hidden]")?.removeAttribute("hidden");
    field.addEventListener("input", () => {
      const wanted = field.value.trim().toLowerCase();
      for (const item of items) item.hidden = !item.textContent.toLowerCase().includes(wanted);
    });
  }
})();
