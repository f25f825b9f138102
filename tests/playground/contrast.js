// What WCAG 2.2 AA asks of texts and controls, as far as a script can see it.

function rgba(colour) {
  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  canvas.fillStyle = colour;
  canvas.fillRect(0, 0, 1, 1);
  return canvas.getImageData(0, 0, 1, 1).data;
}

function luminance(colour) {
  const [r, g, b] = Array.from(rgba(colour).slice(0, 3), (value) => {
    const part = value / 255;
    return part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4;
  });
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
}

function background(element) {
  for (let each = element; each; each = each.parentElement) {
    const colour = getComputedStyle(each).backgroundColor;
    if (rgba(colour)[3] === 255) return colour;
  }
  return "white";
}

function inspect() {
  const faint = [];
  let checked = 0;
  for (const element of document.querySelectorAll("body *")) {
    const words = [...element.childNodes].filter((node) => node.nodeType === Node.TEXT_NODE && node.data.trim());
    const box = element.getBoundingClientRect();
    if (!words.length || box.width < 2 || !element.checkVisibility()) continue;
    const [a, b] = [luminance(getComputedStyle(element).color), luminance(background(element))];
    const contrast = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    checked += 1;
    if (contrast < 4.5) faint.push(`${element.outerHTML.slice(0, 80)}: ${contrast.toFixed(2)}`);
  }
  const nameless = [...document.querySelectorAll("button, input, select, a[href], summary, [tabindex='0']")].filter(
    (each) =>
      !each.textContent.trim() &&
      !each.getAttribute("aria-label") &&
      !each.getAttribute("aria-labelledby") &&
      !each.labels?.length,
  );
  return { checked, faint, nameless: nameless.map((each) => each.outerHTML), darkPage: luminance(background(document.body)) < 0.2 };
}
