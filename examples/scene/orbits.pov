// Spheres of glass and metal circle a lamp above calm water: 48 frames that join end to start.
// POV-Ray 3.7, without include files:  povray orbits.pov +Oframe.png +W320 +H180 +K1 +A0.3 -D
// The clock is the frame, from 1 (or 0) to 48.
#version 3.7;

global_settings { assumed_gamma 1.0 max_trace_level 7 }

#declare Frames = 48;
#declare Turn = 2 * pi * clock / Frames;

camera {
  location <0, 2.6, -9>
  look_at <0, 0.95, 0>
  right x * image_width / image_height
  angle 42
}

// Evening: warm at the horizon, deep blue above.
sky_sphere {
  pigment {
    gradient y
    color_map {
      [0.00 rgb <0.95, 0.52, 0.26>]
      [0.10 rgb <0.78, 0.36, 0.34>]
      [0.30 rgb <0.24, 0.20, 0.42>]
      [1.00 rgb <0.02, 0.03, 0.12>]
    }
  }
}

// Haze hides the waves that are too far to be drawn well.
fog { fog_type 2 distance 28 rgb <0.86, 0.46, 0.30> fog_offset 0 fog_alt 0.35 }

// A low sun, wide enough for soft shadows, and a faint fill from the camera's side.
light_source {
  <-14, 9, 12> rgb <1.30, 1.02, 0.78>
  area_light <3, 0, 0>, <0, 3, 0>, 5, 5 adaptive 1 jitter circular orient
}
light_source { <8, 10, -12> rgb <0.22, 0.26, 0.38> shadowless }

// Water: two sets of small waves that come round with the film.
plane {
  y, 0
  pigment { rgb <0.01, 0.03, 0.05> }
  normal {
    average
    normal_map {
      [1.0 waves 0.10 frequency 3 phase clock / Frames * 2 scale 2 translate <6, 0, 9>]
      [1.0 ripples 0.08 frequency 2 phase clock / Frames translate <-5, 0, 4>]
    }
  }
  finish { ambient 0 diffuse 0.3 specular 0.7 roughness 0.004 reflection { 0.06, 0.85 fresnel on } conserve_energy }
  interior { ior 1.33 }
}

#declare Glass = material {
  texture {
    pigment { rgbf <0.94, 0.98, 1.0, 0.96> }
    finish { ambient 0 diffuse 0.02 specular 0.9 roughness 0.002 reflection { 0.03, 0.95 fresnel on } conserve_energy }
  }
  interior { ior 1.5 fade_distance 2 fade_power 1001 fade_color <0.55, 0.85, 0.95> }
}

#macro Metal(Colour)
  texture {
    pigment { rgb Colour }
    finish { ambient 0 diffuse 0.35 specular 0.9 roughness 0.012 metallic reflection { 0.5 metallic } brilliance 2 }
  }
#end

// The lamp in the middle lights the water and what passes by.
light_source {
  <0, 1.3, 0> rgb <1.0, 0.72, 0.40> * 1.1 fade_distance 2.5 fade_power 2
  looks_like {
    sphere { 0, 0.34 pigment { rgb 1 } finish { ambient 0 diffuse 0 emission <1.6, 1.15, 0.62> } }
  }
}
sphere { <0, 1.3, 0>, 0.85 material { Glass } no_shadow }

// Nine spheres on a tilted ring that turns once; every third one is glass, and each bobs on its way.
#declare Count = 9;
#declare Colours = array[3] { <1.0, 0.72, 0.26>, <0.92, 0.34, 0.26>, <0.36, 0.62, 1.0> };
#for (I, 0, Count - 1)
  #declare Angle = Turn + 2 * pi * I / Count;
  sphere {
    <3.2 * cos(Angle), 1.15 + 0.35 * sin(2 * Angle + I), 2.2 * sin(Angle)>, 0.46
    #if (mod(I, 3) = 2)
      material { Glass }
    #else
      Metal(Colours[mod(I + int(I / 3), 3)])
    #end
  }
#end
